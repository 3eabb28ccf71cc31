def evaluate():
    """x"""

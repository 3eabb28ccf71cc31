def run():
    """x"""

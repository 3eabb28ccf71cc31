def graph():
    """x"""

def draw():
    """x"""

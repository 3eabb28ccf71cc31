def models():
    """x"""
def tasks():
    """x"""
def recipes():
    """x"""

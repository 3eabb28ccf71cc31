"""First names that are common in English text, by the gender they are usually given to.

Our own list. Names given to both often (Taylor, Jordan, Alex) and names that are also common words (Mark,
Grace, May, Hope, Will, Rose) are left out.
"""

from __future__ import annotations

_MALE = """
Aaron Adam Alan Albert Alexander Andrew Anthony Arthur Benjamin Brandon Brian Bruce Carl Charles
Christopher Daniel David Dennis Donald Douglas Edward Eric Ethan Evan Frank Frederick Gary George Gerald
Gregory Harold Harry Henry Howard Jack Jacob James Jason Jeffrey Jeremy John Jonathan Joseph Joshua
Justin Keith Kenneth Kevin Larry Lawrence Louis Martin Matthew Michael Nathan Nicholas Oliver Patrick Paul
Peter Philip Ralph Raymond Richard Robert Roger Ronald Samuel Scott Simon Stephen Steven Theodore Thomas
Timothy Victor Vincent Walter William Zachary
"""

_FEMALE = """
Abigail Alexandra Alice Amanda Amy Andrea Angela Anna Anne Barbara Betty Brenda Caroline Catherine
Charlotte Christina Christine Claire Deborah Diana Donna Dorothy Elizabeth Ellen Emily Emma Evelyn Frances
Hannah Heather Helen Isabella Jane Janet Janice Jennifer Jessica Joan Judith Julia Julie Karen Katherine
Kathleen Kelly Kimberly Laura Linda Lisa Louise Lucy Margaret Maria Marie Martha Mary Melissa Michelle
Nancy Natalie Nicole Olivia Pamela Patricia Rachel Rebecca Ruth Samantha Sandra Sara Sarah Sharon Sophia
Stephanie Susan Theresa Victoria Virginia
"""

MALE = tuple(_MALE.split())
FEMALE = tuple(_FEMALE.split())
NAMES = (*MALE, *FEMALE)

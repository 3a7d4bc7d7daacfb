"""How do the reports of larger operations look to people?"""

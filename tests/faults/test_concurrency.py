"""What happens when several processes use one repository or one target at once?"""

"""What does a policy file mean for the repositories that it names? It is published in each, and asked before anything is kept.

publishing  how it comes to hold in them            residence  may this be kept in that store?
"""

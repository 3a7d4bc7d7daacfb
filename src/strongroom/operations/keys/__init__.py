"""How old are the keys of a repository, what do they still seal, and how are old ones given up?

status     how old is each key?                             epochs_left   what is still sealed by the keys of which epoch?
reencrypt  what older keys seal comes under the newest      close_epochs  the keys of old epochs are given up
"""

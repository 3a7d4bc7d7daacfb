"""How is the room of what nobody needs freed? What is condemned goes after a time of grace, once it was read back elsewhere.

run    packs are condemned, and deleted later    plan  which packs go, and which should be written anew
sweep  how condemned packs are deleted           trim  which journal segments go
"""

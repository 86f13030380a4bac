"""The servers that prefork is compared with: scripts that print "port N" and serve until they are killed.

Knows: how each library is meant to be used, with TCP_NODELAY and a large backlog as prefork has them.
Does not know: the load, or who is compared with whom.
"""

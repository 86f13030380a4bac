"""The benchmark: CPU per operation and memory per connection of prefork and its peers, in turn in one run.

Knows: the peers, the load generators, the kernel's accounts in /proc.
Does not know: the inside of any server; prefork is started, asked and stopped by its command line only.
"""

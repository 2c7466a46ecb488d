"""Measures SmartProxy beside nginx and HAProxy; tests/bench/run is the command.

machine   what the kernel says of a process tree, and the machine's name      programs  how each program is set up
bench     the run: folder, origin, processes, their end                       loads     what asks, and how its answers are checked
peers     rows beside the peers: loads in turn, ratios of rounds              alone     rows of ours alone
micro     rows of the microbenches                                            resume    a load of resumed handshakes, run by loads
report    text, JSON, markdown                                                plot      a picture of it
"""

"""Jobs: the engine as a child process, its messages to and from the viewer, and the files of these messages."""

"""Jobs: the engine as a child process, and what runs of it leave behind."""

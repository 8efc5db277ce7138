"""What a person starts and sees: the supervisor of the node graph, the progress screen, the report."""

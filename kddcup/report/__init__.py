"""The evaluation page: what the models rank where, and why."""

"""What the five stages share. Nothing here imports a stage."""

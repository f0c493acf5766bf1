"""What this project costs, beside a straightforward reference and the machine's own limit: ``make bench``."""

"""What everything else stands on: errors, the only file I/O, and the platform's set-up."""

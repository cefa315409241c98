"""What a reply goes through before any of it is used: refused with a reason, or on disk."""

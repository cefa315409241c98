"""A small read-only web page of a running federation, served from its folder alone."""

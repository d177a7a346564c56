"""What must not come in: blocklists, the NSFW filter, and what was taken down."""

"""What a user would write by hand, against this project's build."""

"""What the forms of all tabs share."""

"""Tables and pictures for people, made from what runs leave behind."""

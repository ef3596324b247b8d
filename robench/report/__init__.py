"""What a run leaves behind for people: tables, pictures and a page, from what was measured, the same for every command."""

"""PlayTable: CALVIN's table, its 34 tasks and its long-horizon protocol."""

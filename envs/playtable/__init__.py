"""PlayTable: CALVIN's table, robot, 34 tasks and protocol, natively in MuJoCo."""

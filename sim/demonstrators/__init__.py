"""Who makes demonstrations: a scripted teleoperator for the kitchen, a planner for mazes."""

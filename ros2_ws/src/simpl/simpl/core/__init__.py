"""What the nodes do, free of ROS: plain classes that tests drive without a graph."""

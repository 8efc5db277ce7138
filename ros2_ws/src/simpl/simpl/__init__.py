"""SiMPL's ROS 2 nodes.

`core` is free of ROS, `nodes` are thin shells around it, `front` starts and watches the graph.
"""

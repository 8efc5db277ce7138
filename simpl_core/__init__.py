"""SiMPL: skills from demonstrations, a meta-trained policy over them, adaptation in minutes.

This package learns; it knows neither a simulator nor ROS. Importing it is free of heavy dependencies.
"""

"""What `python -m wuerstchen` asks, does and writes.

options     the options, and where their values come from
painting    from options to files
pictures    PNG files, their names and the settings in them
manifest    the folder that a file of prompts fills
"""

"""What `python -m wuerstchen` asks, does and writes.

    options     the options, the kinds of their values and their help
    pictures    PNG files, their names and the settings in them
    parsing     words -> the values of all options, from --from and presets, too
    manifest    the folder that a file of prompts fills
    painting    from values to files

Each needs only those above it.
"""

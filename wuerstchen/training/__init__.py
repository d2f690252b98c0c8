"""How each stage is trained, on drawn pictures, and how well models do what they are told.

    shapes, wording, data                  the world of the bundled model: pictures and captions
    mini                                   its sizes
    text, vqgan, decoder, prior, noising   what each network learns, and from what
    loop, states, kept, log, interrupts    a run: its steps, its file to go on from, its figures
    judge, measure, look                   pictures read by rules, and shown on sheets
    trial, distances, precision            one setting against another, on the same prompts
    cases, samplers, chart                 the table of samplers and presets
    export, previews                       trained networks as a model folder; colours for previews

`python -m wuerstchen.training mini` does all of it, `measure` measures any model.
"""

"""LoRAs: small updates of linear layers (Hu and others 2021), read, merged and taken out.

    names      names of layers in LoRA files, of all trainers -> ours
    peft       PEFT's adapter config -> the scale of each layer
    files      a file -> updates by layer, each sure to fit
    merging    updates merged into a network, and taken out to the last bit

Each needs only those above it.
"""

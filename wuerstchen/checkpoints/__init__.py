"""From the name of a model to a network with its weights, and back to a file.

    notation     how sources are written: a*0.5+b*0.5, lora.safetensors:0.8
    files        a file -> named tensors; nothing in it is run
    sources      a name, a name on the Hub or a folder -> its files
    blending     named tensors of several files -> their mean
    recognise    named tensors -> which network they are, under the published names
    configs      a config.json or the tensors' shapes -> the sizes of the network
    loading      all of this: a source -> a placed network
    info         what is in a source, as `wuerstchen info` prints it
    converting   a network -> one safetensors file

Each needs only those above it.
"""

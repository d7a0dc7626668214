"""Native kernels for the CPU: C sources, compiled on this machine when they are first used.

They serve the steps that decode a few tokens, where reading the weights is the work and each operation that torch
dispatches costs more than it does, and what lies between the products of any step. `build` compiles, `products`
multiplies by weights, `rows` does what concerns each token alone, `attention` what a new token sees, `recurrence` all
the steps of a recurrent layer, and `program` replays calls of them that were recorded.
"""

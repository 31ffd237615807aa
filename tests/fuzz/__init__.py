"""Random model fragments in random modes: our gradients against the definition in plain PyTorch and float64.

    cd tests && python -m fuzz --cases 10000 --seed 0 --jobs 2

============== =====================================================================================
definition.py  what is right: ReLU, extrema, slack and penalty, with nothing of the package
fragments.py   a model fragment as data; draw.py draws one
models.py      the fragment as an ``nn.Module``; network.py as a function for the definition
cases.py       parameters, inputs and options of one case
modes.py       how a model can be run: eager, compiled, checkpointed, under autocast, ...
compare.py     how far apart two right results may be
campaign.py    many cases; plants.py wrong implementations that a campaign has to find
============== =====================================================================================
"""

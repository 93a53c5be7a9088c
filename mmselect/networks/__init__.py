"""Small networks that strategies train: arrays in, arrays out, like the core, but with torch.

A room of its own above the core, which stays free of torch, and below the strategies, so that
imports go down here too; they import it inside their functions, so that only who asks for such a
strategy needs the extra. ``mmselect.torch`` stands aside: it knows pools and commands.
"""

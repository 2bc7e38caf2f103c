"""What happens to files: bytes flip, go missing, come in."""

import random


def mutations(content: bytes, count: int, seed: int):
    """`count` copies of `content`, each with one to three damages, the same from the same seed."""
    draw = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            place, kind = draw.randrange(len(damaged) + 1), draw.randrange(4)
            if kind == 0:
                del damaged[place:]
            elif kind == 1:
                damaged[place:place] = draw.randbytes(draw.randint(1, 4))
            else:
                damaged[place : place + 1] = draw.randbytes(1)
        yield bytes(damaged)

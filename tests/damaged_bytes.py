"""Files as disks and downloads leave them, for tests of what reads them."""


def damaged(content, k, rng):
    """The k-th kind of damage in turn, anywhere; every second one in the first or last tenth, where lengths are."""
    content, size = bytearray(content), len(content)
    place = int(rng.integers(size))
    if k % 2:
        place = place // 10 if k % 4 == 1 else size - 1 - place // 10
    match k % 5:
        case 0:
            content[place] ^= 1 << rng.integers(8)
        case 1:
            content[place] = int(rng.integers(256))
        case 2:
            del content[place:]
        case 3:
            del content[place : place + int(rng.integers(1, 40))]
        case 4:
            content[place : place + 8] = [b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f\0\0\0\0"][rng.integers(3)]
    return bytes(content)

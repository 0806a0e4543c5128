def draw(rows, path):  # type: ignore[no-untyped-def]
    return None

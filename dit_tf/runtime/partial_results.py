"""Results of a long evaluation, kept batch by batch, so that the same command goes on where it was interrupted."""

import json
import os


class PartialResults:
    """Lines of JSON in `path`: first what the results are of, then one batch a line. Another `key` starts anew."""

    def __init__(self, path, key):
        self.path, self.batches = path, []
        lines, head = self._whole_lines(), json.dumps(key).encode() + b"\n"
        if lines[:1] == [head]:
            os.truncate(path, sum(map(len, lines)))
            self.batches = [json.loads(line) for line in lines[1:]]
            return
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path, "wb") as file:  # killed here, what is there is of no key, and so it starts anew again
            file.write(head)

    def append(self, batch):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(batch) + "\n")
        self.batches.append(batch)

    def remove(self):
        os.remove(self.path)

    def _whole_lines(self):
        """Without a last line that a killed run left unfinished."""
        if not os.path.exists(self.path):
            return []
        with open(self.path, "rb") as file:
            return [line for line in file if line.endswith(b"\n")]

"""img2dataset's ``download`` with the arguments of a JSON object on the command line: run in its own environment."""

import json
import sys

if __name__ == "__main__":  # its workers import this file again
    from img2dataset import download

    download(**json.loads(sys.argv[1]))

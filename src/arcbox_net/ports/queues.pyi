from typing import Final

QUEUE_ADD: Final = 200
QUEUE_LOST: Final = 200

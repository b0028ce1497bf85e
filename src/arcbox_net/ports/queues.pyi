from typing import Final

QUEUE_ADD: Final = 200
QUEUES_CLOSE: Final = 201
QUEUE_LOST: Final = 200

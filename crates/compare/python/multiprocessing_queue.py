#!/usr/bin/env python3
"""One small object after the other through multiprocessing.Queue, from one process to another.

    python3 multiprocessing_queue.py [COUNT [SENDER_CORE RECEIVER_CORE]]

prints how many nanoseconds an object took. The object has the content of `Order` in src/ways/objects.rs, in a dictionary, which
is what Python serializes fastest. Only the standard library is needed.
"""

import multiprocessing
import os
import sys
import time

FIRST = 1 << 40


def order(number):
    """The object, made anew for each send: the queue serializes it in another thread, at some later time."""
    return {
        "number": FIRST + number,
        "customer": {"id": 1 << 33, "name": "Katharina Musterfrau", "rating": 0.75},
        "lines": [1000 + 7 * line for line in range(8)],
        "kind": ("limit", 1234.5, 30),
        "note": "to be delivered by hand, indoors",
    }


def pin(core):
    if core is not None:
        os.sched_setaffinity(0, {core})


def send(queue, ready, begin, count, core):
    pin(core)
    queue.put(order(0))  # starts the thread that serializes
    ready.wait()
    begin.value = time.monotonic_ns()
    for number in range(1, count + 1):
        queue.put(order(number))
    queue.close()
    queue.join_thread()


def main():
    arguments = [int(argument) for argument in sys.argv[1:]]
    count = arguments[0] if arguments else 100_000
    sender_core, receiver_core = arguments[1:3] if len(arguments) >= 3 else (None, None)
    queue = multiprocessing.Queue()
    ready = multiprocessing.Event()
    begin = multiprocessing.Value("q", 0)
    sender = multiprocessing.Process(target=send, args=(queue, ready, begin, count, sender_core), daemon=True)
    sender.start()
    pin(receiver_core)
    expected = order(0)
    assert queue.get() == expected
    ready.set()
    for number in range(1, count + 1):
        received = queue.get()
        expected["number"] = FIRST + number
        assert received == expected
    end = time.monotonic_ns()
    sender.join()
    print(f"{(end - begin.value) / count:.1f} ns per object")


if __name__ == "__main__":
    main()

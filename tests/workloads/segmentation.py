"""Turns off the cutting of packets by a network device: segmentation.py DEVICE

TCP goes on to make packets of several segments; the kernel cuts them itself when they leave, as it does for hardware that cannot.
"""

import array
import fcntl
import socket
import struct
import sys

# linux/sockios.h, linux/ethtool.h
SIOCETHTOOL, ETHTOOL_GTSO, ETHTOOL_STSO = 0x8946, 0x1E, 0x1F


def call(command, value):
    wanted = array.array("I", [command, value])
    address, _ = wanted.buffer_info()
    request = struct.pack("16sP16x", sys.argv[1].encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)
    return wanted[1]


call(ETHTOOL_STSO, 0)
sys.exit("it still cuts" if call(ETHTOOL_GTSO, 0) else 0)

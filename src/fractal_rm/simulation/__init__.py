"""The engine under virtual time: without network, disk or waiting. The program uses it too."""

"""The Unix socket of a process in the state folder: commands, and other processes, ask through it.

| part | what it does |
|---|---|
| `messages.py` | the requests and the answers: one JSON text in each line |
| `socket_file.py` | makes the file of the socket, and connects to it |
| `server.py` | accepts connections |
| `conversation.py` | reads the request of one connection, and sends the answers |
| `requests.py` | does what the requests ask |
| `client.py` | sends a request, and reads the answers |
| `other_processes.py` | asks the other processes of a state folder |
| `folder_actions.py` | the port `Actions` for all processes of a state folder |
"""

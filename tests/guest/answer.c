/* /lab/answer PORT: takes a line from each connection, answers it and hangs up first, as servers of the old web do. One
 * process and five system calls a connection, so that a slow guest can serve thousands of them. */
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words)
{
    static const char answer[] = "a short answer\n";
    char line[512];
    int yes = 1;
    struct sockaddr_in at = { .sin_family = AF_INET };
    int listener = socket(AF_INET, SOCK_STREAM, 0);

    if (count != 2 || listener < 0)
        return 1;
    at.sin_port = htons((unsigned short)atoi(words[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 4096))
        return 1;
    for (;;) {
        int client = accept(listener, NULL, NULL);
        ssize_t length = 0;

        if (client < 0)
            continue;
        while (length < (ssize_t)sizeof(line) && (length == 0 || line[length - 1] != '\n')) {
            ssize_t more = read(client, line + length, sizeof(line) - (size_t)length);

            if (more <= 0)
                break;
            length += more;
        }
        if (write(client, answer, sizeof(answer) - 1) < 0)
            length = 0;
        close(client);
    }
}

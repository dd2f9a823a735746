// HTTP clients of the JDK: what a plan says (see client.py), request by request, with a line for each answer: status, bytes, CRC-32.
// `http1`: HttpClient held to HTTP/1.1. `http2`: HttpClient as it is made, which offers an upgrade to HTTP/2. `url`: HttpURLConnection. Several, with commas between them, one after the other.
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.zip.CRC32;

public class Client {
    record Step(String method, URI uri, byte[] body, String framing, int padding, boolean close) {
        static Step of(String address, String line) {
            String[] words = line.split(" ");
            byte[] body = new byte[Integer.parseInt(words[2])];
            for (int at = 0; at < body.length; at++) {
                body[at] = (byte) ((at * 31 + 7) % 251);
            }
            URI uri = URI.create("http://" + address + words[1]);
            return new Step(words[0], uri, body, words[3], Integer.parseInt(words[4]), words[5].equals("close"));
        }
    }

    static void tell(int status, byte[] content) {
        CRC32 crc = new CRC32();
        crc.update(content);
        System.out.println(status + " " + content.length + " " + crc.getValue());
    }

    static void withClient(HttpClient client, Step step) throws Exception {
        BodyPublisher body = switch (step.framing()) {
            case "length" -> BodyPublishers.ofByteArray(step.body());
            case "chunked" -> BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(step.body()));
            default -> BodyPublishers.noBody();
        };
        HttpRequest.Builder request = HttpRequest.newBuilder(step.uri()).timeout(Duration.ofSeconds(60)).method(step.method(), body);
        if (step.padding() != 0) {
            request.header("X-Padding", "p".repeat(step.padding()));
        }
        if (step.close()) {
            request.header("Connection", "close");
        }
        HttpResponse<byte[]> response = client.send(request.build(), BodyHandlers.ofByteArray());
        tell(response.statusCode(), response.body());
    }

    static void withUrl(Step step) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) step.uri().toURL().openConnection();
        connection.setReadTimeout(60_000);
        connection.setRequestMethod(step.method());
        if (step.padding() != 0) {
            connection.setRequestProperty("X-Padding", "p".repeat(step.padding()));
        }
        if (step.close()) {
            connection.setRequestProperty("Connection", "close");
        }
        if (!step.framing().equals("none")) {
            connection.setDoOutput(true);
            if (step.framing().equals("chunked")) {
                connection.setChunkedStreamingMode(7000);
            } else {
                connection.setFixedLengthStreamingMode(step.body().length);
            }
            connection.getOutputStream().write(step.body());
            connection.getOutputStream().close();
        }
        int status = connection.getResponseCode();
        try (InputStream content = connection.getInputStream()) {
            tell(status, content.readAllBytes());
        }
    }

    public static void main(String[] arguments) throws Exception {
        for (String mode : arguments[2].split(",")) {
            HttpClient.Builder builder = HttpClient.newBuilder();
            if (mode.equals("http1")) {
                builder.version(HttpClient.Version.HTTP_1_1);
            }
            HttpClient client = mode.equals("url") ? null : builder.build();
            for (String line : Files.readAllLines(Path.of(arguments[1]))) {
                Step step = Step.of(arguments[0], line);
                if (client == null) {
                    withUrl(step);
                } else {
                    withClient(client, step);
                }
            }
        }
        System.exit(0);
    }
}

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Sums amounts and counts events of every customer, as Kafka Streams' documentation has it: groupByKey, aggregate, a persistent store with its
 * cache and changelog. Prints what the counted events cost, one JSON object on a line, and ends.
 *
 * <p>Arguments: bootstrap servers, topic, application id, processing guarantee, state directory, schema file, events, lead, tail,
 * and settings as key=value. The first `lead` and the last `tail` events are not counted. CPU is that of the whole process, all of its threads.
 */
public final class StatefulSum {
    /** The magic byte and the schema's id, before the Avro body. */
    private static final int PREFIX_BYTES = 5;

    private static final long TIMEOUT_S = 600;

    /** The system's clock of CPU ticks a hundred times a second. */
    private static final long NS_PER_TICK = 10_000_000;

    /** What is kept of a customer. */
    private record Totals(long amount, long events) {
        private static final int BYTES = 2 * Long.BYTES;

        Totals plus(GenericRecord event) {
            Long added = (Long) event.get("amount");
            return new Totals(added == null ? amount : amount + added, events + 1);
        }

        static Serde<Totals> serde() {
            return Serdes.serdeFrom(
                    (topic, totals) -> ByteBuffer.allocate(BYTES).putLong(totals.amount).putLong(totals.events).array(),
                    (topic, bytes) -> {
                        ByteBuffer buffer = ByteBuffer.wrap(bytes);
                        return new Totals(buffer.getLong(), buffer.getLong());
                    });
        }
    }

    /** Decodes an event's body after the prefix. */
    private static final class EventDeserializer implements Deserializer<GenericRecord> {
        private final GenericDatumReader<GenericRecord> reader;
        private BinaryDecoder decoder;

        EventDeserializer(Schema schema) {
            reader = new GenericDatumReader<>(schema);
        }

        @Override
        public GenericRecord deserialize(String topic, byte[] data) {
            decoder = DecoderFactory.get().binaryDecoder(data, PREFIX_BYTES, data.length - PREFIX_BYTES, decoder);
            try {
                return reader.read(null, decoder);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }

    /** Counts events and takes the two readings. Only the one stream thread calls `one`. */
    private static final class Meter {
        private final OperatingSystemMXBean process = ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class);
        private final long first;
        private final long last;
        private long seen;
        private long[] begun;
        private long[] ended;
        final CountDownLatch done = new CountDownLatch(1);

        Meter(long first, long last) {
            this.first = first;
            this.last = last;
        }

        void one() {
            seen++;
            if (seen == first) {
                begun = reading();
            } else if (seen == last) {
                ended = reading();
                done.countDown();
            }
        }

        private long[] reading() {
            long compiling = 0;
            long collecting = 0;
            for (Map.Entry<String, Long> thread : threads().entrySet()) {
                String name = thread.getKey();
                if (name.startsWith("C1 Comp") || name.startsWith("C2 Comp")) {
                    compiling += thread.getValue();
                } else if (name.startsWith("G1 ") || name.startsWith("GC ")) {
                    collecting += thread.getValue();
                }
            }
            return new long[] {process.getProcessCpuTime(), System.nanoTime(), compiling, collecting};
        }

        /** CPU of the living threads by the first letters of their names, in nanoseconds; empty where the system does not tell. */
        private static Map<String, Long> threads() {
            Map<String, Long> found = new HashMap<>();
            try (DirectoryStream<Path> tasks = Files.newDirectoryStream(Path.of("/proc/self/task"))) {
                for (Path task : tasks) {
                    String stat = Files.readString(task.resolve("stat"));
                    String name = stat.substring(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
                    String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
                    found.merge(name, (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) * NS_PER_TICK, Long::sum);
                }
            } catch (IOException error) {
                return Map.of();
            }
            return found;
        }

        private double perEvent(int reading) {
            return (ended[reading] - begun[reading]) / 1e3 / (last - first);
        }

        String figures() {
            double rate = (last - first) * 1e9 / (ended[1] - begun[1]);
            String form = "{\"cpu_us\": %.4f, \"events_per_s\": %.1f, \"cpu_less_compiler_us\": %.4f, \"in_collector_us\": %.4f}";
            return String.format(Locale.ROOT, form, perEvent(0), rate, perEvent(0) - perEvent(2), perEvent(3));
        }
    }

    public static void main(String[] args) throws Exception {
        Schema schema = new Schema.Parser().parse(Path.of(args[5]).toFile());
        long events = Long.parseLong(args[6]);
        Meter meter = new Meter(Long.parseLong(args[7]), events - Long.parseLong(args[8]));

        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, args[2]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, args[3]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, args[4]);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");

        for (int i = 9; i < args.length; i++) {
            String[] setting = args[i].split("=", 2);
            settings.put(setting[0], setting[1]);
        }

        StreamsBuilder builder = new StreamsBuilder();
        Serde<GenericRecord> event = Serdes.serdeFrom((topic, record) -> null, new EventDeserializer(schema));
        builder.stream(args[1], Consumed.with(Serdes.String(), event))
                .groupByKey()
                .aggregate(
                        () -> new Totals(0, 0),
                        (customer, one, totals) -> {
                            meter.one();
                            return totals.plus(one);
                        },
                        Materialized.<String, Totals, KeyValueStore<Bytes, byte[]>>as("totals")
                                .withKeySerde(Serdes.String())
                                .withValueSerde(Totals.serde()));

        try (KafkaStreams streams = new KafkaStreams(builder.build(), settings)) {
            streams.setUncaughtExceptionHandler(error -> {
                error.printStackTrace();
                meter.done.countDown();
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.start();
            boolean inTime = meter.done.await(TIMEOUT_S, TimeUnit.SECONDS);
            if (!inTime || meter.ended == null) {
                System.err.println(inTime ? "the stream thread failed" : "not all events were seen in time");
                System.exit(1);
            }
            System.out.println(meter.figures());
            streams.close(Duration.ofSeconds(30));
        }
    }
}

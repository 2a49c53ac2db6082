"""Names of OpenTelemetry's conventions that are used here, in one place: the messaging ones are not final yet.

Messaging, errors and services are OpenTelemetry's; ``tierflow.*`` is ours.
"""

from typing import Final

MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_DESTINATION_PARTITION_ID: Final = "messaging.destination.partition.id"
MESSAGING_CONSUMER_GROUP_NAME: Final = "messaging.consumer.group.name"
MESSAGING_KAFKA_OFFSET: Final = "messaging.kafka.offset"
MESSAGING_CLIENT_CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
MESSAGING_CLIENT_SENT_MESSAGES: Final = "messaging.client.sent.messages"
MESSAGING_PROCESS_DURATION: Final = "messaging.process.duration"
ERROR_TYPE: Final = "error.type"
SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE_ID: Final = "service.instance.id"

KAFKA: Final = "kafka"
PROCESS: Final = "process"

TIERFLOW_ACCEPTED: Final = "tierflow.requests.accepted"
TIERFLOW_ENDED: Final = "tierflow.requests.ended"
TIERFLOW_UNFINISHED: Final = "tierflow.requests.in_flight"
TIERFLOW_OLDEST: Final = "tierflow.requests.oldest_unfinished"
TIERFLOW_OFFENCES: Final = "tierflow.offences"
TIERFLOW_OFFENCE: Final = "tierflow.offence.kind"
TIERFLOW_STAGE: Final = "tierflow.stage"
TIERFLOW_AGE: Final = "tierflow.record.age"
TIERFLOW_COMMITTED: Final = "tierflow.records.committed"
TIERFLOW_COMMITS: Final = "tierflow.commits"
TIERFLOW_DEAD_LETTERS: Final = "tierflow.dead_letters"
TIERFLOW_HANDLER_ERRORS: Final = "tierflow.handler.errors"
TIERFLOW_RESETS: Final = "tierflow.resets"
